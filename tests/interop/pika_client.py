"""pika, as in its documentation: a round trip with headers, a consumer, a returned message,
and two refusals.

Prints ok at the end.
"""
import sys

import pika

parameters = pika.URLParameters(sys.argv[1])
connection = pika.BlockingConnection(parameters)
channel = connection.channel()
channel.confirm_delivery()

queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 100}).method.queue
headers = {
    "text": "värde", "number": -7, "big": 2**40, "flag": True,
    "list": [1, "two", None], "nested": {"a": {"b": 1}},
}
properties = pika.BasicProperties(
    content_type="text/plain", delivery_mode=2, headers=headers,
    correlation_id="c1", priority=3, message_id="m1", app_id="kit"
)
channel.basic_publish("", queue, "håll".encode(), properties, mandatory=True)
method, got, body = channel.basic_get(queue)
assert body.decode() == "håll" and got.headers == headers, (body, got.headers)
assert (got.correlation_id, got.priority, got.message_id, got.app_id) == ("c1", 3, "m1", "kit"), got
channel.basic_nack(method.delivery_tag, requeue=True)
method, got, body = channel.basic_get(queue)
assert method.redelivered, "a requeued message is marked"
channel.basic_ack(method.delivery_tag)

for n in range(200):
    channel.basic_publish("", queue, str(n))
count = channel.queue_declare(queue, passive=True).method.message_count
assert count == 100, "x-max-length drops the head"
seen = []
for method, _, body in channel.consume(queue, inactivity_timeout=180):
    seen.append(int(body))
    channel.basic_ack(method.delivery_tag)
    if len(seen) == 100:
        break
channel.cancel()
assert seen == list(range(100, 200)), seen

big = bytes(range(256)) * 8192
channel.basic_publish("", queue, big)
assert channel.basic_get(queue, auto_ack=True)[2] == big

try:
    channel.basic_publish("", "interop.nobody", b"x", mandatory=True)
    raise SystemExit("an unroutable message was not returned")
except pika.exceptions.UnroutableError:
    pass
try:
    channel.queue_declare("interop.nobody", passive=True)
    raise SystemExit("a missing queue was found")
except pika.exceptions.ChannelClosedByBroker as closed:
    assert closed.reply_code == 404, closed
    text = "NOT_FOUND - no queue 'interop.nobody' in vhost '/'"
    assert closed.reply_text.startswith(text), closed
try:
    channel = connection.channel()
    channel.queue_declare("interop.pika", exclusive=True, arguments={"x-max-length": 4})
    channel.queue_declare("interop.pika", exclusive=True, arguments={"x-max-length": 5})
    raise SystemExit("another x-max-length was accepted")
except pika.exceptions.ChannelClosedByBroker as closed:
    assert closed.reply_code == 406, closed
    assert "inequivalent arg 'x-max-length' for queue" in closed.reply_text, closed
connection.close()
print("ok")
