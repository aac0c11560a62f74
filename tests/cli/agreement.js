// What the TypeScript tool does on the wire, with amqplib: its topology, its envelope, its checks.
//   node agreement.js URL publish QUEUE   declares as it does, publishes the envelope of its README
//   node agreement.js URL check QUEUE     takes one message and checks it field by field; prints it
const amqp = require('amqplib');
const assert = require('node:assert');

const ARGUMENTS = { 'x-message-ttl': 86400000, 'x-max-length': 1000, 'x-overflow': 'drop-head' };

function check(message) {
  const { content, properties } = message;
  const envelope = JSON.parse(content.toString('utf8'));
  for (const field of ['id', 'from', 'to', 'ts', 'message']) {
    assert.equal(typeof envelope[field], 'string', field);
    assert.ok(envelope[field].length > 0, field);
  }
  assert.match(envelope.id, /^[0-9A-HJKMNP-TV-Z]{26}$/);
  assert.match(envelope.ts, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.ok(!Number.isNaN(Date.parse(envelope.ts)));
  assert.ok(Array.isArray(envelope.files));
  assert.ok(envelope.files.every((file) => typeof file === 'string'));
  assert.equal(typeof envelope.reply_to, 'string');
  assert.equal(typeof envelope.correlation_id, 'string');
  assert.ok(['low', 'normal', 'high'].includes(envelope.priority));
  assert.ok(Object.values(envelope.metadata).every((value) => typeof value === 'string'));
  assert.equal(properties.contentType, 'application/json');
  assert.equal(properties.deliveryMode, 2);
  assert.equal(properties.messageId, envelope.id);
  assert.equal(properties.correlationId, envelope.correlation_id);
  assert.equal(properties.replyTo, envelope.reply_to);
  assert.equal(properties.priority, { low: 1, normal: 5, high: 9 }[envelope.priority]);
  assert.equal(properties.timestamp, Math.floor(Date.parse(envelope.ts) / 1000));
  return envelope;
}

async function main(url, verb, queue) {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange('claudeBroker', 'direct', { durable: true });
  await channel.assertQueue(queue, { durable: true, arguments: ARGUMENTS });
  await channel.bindQueue(queue, 'claudeBroker', queue);
  if (verb === 'publish') {
    const envelope = {
      id: '01HZ7K8M2N3P4Q5R6S7T8U9V', from: 'myPythonBackend', to: queue,
      ts: '2026-06-22T14:32:11.482Z',
      message: 'GET /users/:id/preferences is live.\nSee the OpenAPI file.',
      files: ['/repo/api/openapi.yaml'],
      reply_to: 'myPythonBackend', correlation_id: '01HZ7K8M2N3P4Q5R6S7T8U9V', priority: 'normal',
      metadata: { intent: 'feature-handoff' },
    };
    const options = { persistent: true, contentType: 'application/json', messageId: envelope.id };
    channel.publish('claudeBroker', queue, Buffer.from(JSON.stringify(envelope)), options);
    await channel.waitForConfirms();
  } else {
    const message = await channel.get(queue, {});
    assert.ok(message, 'nothing waits');
    console.log(JSON.stringify(check(message)));
    channel.ack(message);
  }
  await channel.close();
  await connection.close();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
