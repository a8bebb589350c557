"""The cold publish of one message that a team would write with pika, confirmed."""
import sys

import pika

url, queue, body = sys.argv[1:4]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish("", queue, body.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
connection.close()
