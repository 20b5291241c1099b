// The calls of calls.json as a Node gateway makes them: axios told to follow no redirect.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const axios = createRequire(`${process.env.NODE_PATH}/`)('axios');
const calls = JSON.parse(readFileSync(new URL('calls.json', import.meta.url), 'utf8'));

/** The template with each {name} replaced, also inside lists and objects. */
const filled = (template, values) =>
  JSON.parse(Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`{${name}}`, value), JSON.stringify(template)));

/** Whether all that is wanted is there; more may be. */
function contains(found, wanted) {
  if (Array.isArray(wanted)) return Array.isArray(found) && found.length === wanted.length && wanted.every((item, at) => contains(found[at], item));
  if (wanted && typeof wanted === 'object') return !!found && Object.entries(wanted).every(([name, value]) => contains(found[name], value));
  return found === wanted;
}

const client = axios.create({ baseURL: process.env.BASE_URL, maxRedirects: 0, validateStatus: () => true });
const values = { email: `${randomUUID()}@example.com`, push_token: `device-${randomUUID()}` };
const ada = { name: 'Ada', email: values.email, password: 'TestPass123!', push_token: values.push_token };
const registered = await client.post('/api/v1/users/', ada);
assert.equal(registered.status, 201, JSON.stringify(registered.data));
const session = registered.data.data;
values.user_id = session.user.id;
const headers = {
  user: { Authorization: `Bearer ${session.access_token}` },
  service: { 'X-Internal-API-Key': process.env.SERVICE_KEY },
};
for (const call of calls) {
  for (const slash of ['', '/']) {
    const asked = filled(call, { ...values, request_id: randomUUID() });
    const url = asked.path + slash + (asked.query ? `?${asked.query}` : '');
    const { status, data } = await client.request({ method: asked.method, url, data: asked.body, headers: headers[asked.as] });
    const told = `${asked.what} (${asked.method} ${url}): ${status} ${JSON.stringify(data)}`;
    assert.equal(status, asked.status ?? 200, told);
    if (asked.refused) {
      assert.deepEqual([data.success, data.error], [false, asked.refused], told);
    } else {
      assert.ok(asked.bare || data.success === true, told);
      assert.ok(contains(asked.bare ? data : data.data, asked.data), told);
    }
  }
}
console.log(`axios: ${calls.length} calls, with and without slash`);
