// amqplib, with the topology and the envelope of the TypeScript tool's README. Prints ok at the
// end.
const amqp = require('amqplib');
const assert = require('node:assert/strict');

async function main() {
  const connection = await amqp.connect(process.argv[2]);
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange('claudeBroker', 'direct', {durable: true});
  const queue = `interop${Date.now()}`;
  const limits = {'x-message-ttl': 86400000, 'x-max-length': 1000, 'x-overflow': 'drop-head'};
  await channel.assertQueue(queue, {durable: true, arguments: limits});
  await channel.bindQueue(queue, 'claudeBroker', queue);

  const ts = new Date().toISOString();
  const envelope = {id: '01JABCDEF', from: 'frontend', to: queue, ts, message: 'hej då'};
  const options = {
    persistent: true, mandatory: true, contentType: 'application/json', messageId: envelope.id,
  };
  channel.publish('claudeBroker', queue, Buffer.from(JSON.stringify(envelope)), options);
  await channel.waitForConfirms();

  let tellCancelled;
  const cancelled = new Promise((resolve) => { tellCancelled = resolve; });
  const received = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error('nothing came')), 10000);
    channel.consume(queue, (message) => {
      if (message === null) return tellCancelled();
      clearTimeout(late);
      channel.ack(message);
      resolve(message);
    }).catch(reject);
  });
  assert.deepEqual(JSON.parse(received.content.toString()), envelope);
  assert.equal(received.properties.contentType, 'application/json');
  assert.equal(received.properties.deliveryMode, 2);
  assert.equal(received.properties.messageId, envelope.id);

  const {messageCount} = await channel.deleteQueue(queue);
  assert.equal(messageCount, 0);
  await cancelled;
  const returned = new Promise((resolve) => channel.once('return', resolve));
  channel.publish('claudeBroker', queue, Buffer.from('{}'), options);
  assert.equal((await returned).fields.replyCode, 312);
  await connection.close();
  console.log('ok');
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
