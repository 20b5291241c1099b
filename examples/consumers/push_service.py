"""A push service as small as one can be: takes deliveries from push.deliver.queue and "sends" them.

    pip install aio-pika==10.2.1
    RABBITMQ_URL=amqp://guest:guest@localhost:5672/%2f python push_service.py

A delivery has everything in it: the token, the user's data, the template's variables. A token that the provider calls dead is told
to the user service (POST /api/v1/users/{id}/push-token/retire/), and no further push is sent to it.
"""

import asyncio
import json
import os

import aio_pika

# What was sent already: a delivery may come twice, with the same message_id. Yours belongs into your database.
SEEN = set()


async def send(delivery):
    """Where yours talks to FCM or APNs."""
    name = delivery["user_data"]["name"]
    print(f"push to {delivery['push_token']} for {name}: {delivery['template_code']} {json.dumps(delivery['variables'])}", flush=True)


async def main():
    connection = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=50)
        # As it is: the user service declares it.
        queue = await channel.get_queue(os.environ.get("RABBITMQ_DELIVER_QUEUE", "push.deliver.queue"))
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process(requeue=True):
                    if message.message_id in SEEN:
                        continue
                    await send(json.loads(message.body))
                    SEEN.add(message.message_id)


asyncio.run(main())
