#!/bin/sh
# Handles one message. This runs it for each message of a queue (--jobs 4: four at a time):
#   nexusctl worker QUEUE -- ./workers/handle.sh
#
# The body is standard input. NEXUS_MESSAGE_ID, NEXUS_TYPE, NEXUS_ROUTING_KEY, NEXUS_ATTEMPT (from 1),
# NEXUS_REDELIVERED and NEXUS_HEADER_* have the rest. The exit status says what becomes of the message:
#   0    it is done and acked; standard output is its result, or the answer to who asked
#   65   it is poison: dead-lettered at once
#   75   not now: tried again after a wait, and dead-lettered when all attempts have failed
# `nexusctl explain retry` has the other statuses. A dead letter carries the status, the last lines of
# standard error, and the number of attempts in headers x-nexus-death-*.
set -eu
body=$(cat)

# Put your work here. Until then the bodies `poison` and `later` show what failures lead to:
#   nexusctl publish EXCHANGE KEY poison
case $body in
poison)
    echo "this message can never be handled" >&2
    exit 65
    ;;
later)
    if [ "$NEXUS_ATTEMPT" = 1 ]; then
        echo "what this message needs is not there yet" >&2
        exit 75
    fi
    ;;
esac
printf 'handled %s\n' "$body"
