// An email service as small as one can be: takes mails from email.queue and "sends" them.
//
//   npm install amqplib@2.3.1
//   RABBITMQ_URL=amqp://guest:guest@localhost:5672/%2f node email_service.mjs
//
// The template's names and variables: docs/accounts.md, "Mails and links". The link holds a token: it is not for a log.
import { createRequire } from "node:module";

// From NODE_PATH, or from beside this file.
const amqplib = createRequire(process.env.NODE_PATH ? `${process.env.NODE_PATH}/` : import.meta.url)("amqplib");

const connection = await amqplib.connect(process.env.RABBITMQ_URL);
const channel = await connection.createChannel();
const queue = process.env.RABBITMQ_EMAIL_QUEUE ?? "email.queue";
// As it is: the user service declares it.
await channel.checkQueue(queue);
await channel.prefetch(20);
// What was sent already: a mail may come twice, with the same notification_id. Yours belongs into your database.
const seen = new Set();

await channel.consume(queue, (message) => {
  if (message === null) process.exit(1); // The queue was deleted.
  const mail = JSON.parse(message.content.toString());
  if (!seen.has(mail.notification_id)) {
    const { email, name, link } = mail.variables;
    console.log(`mail ${mail.template_code} to ${name} <${email}>${link ? ", with a link" : ""}`);
    seen.add(mail.notification_id);
  }
  channel.ack(message);
});
