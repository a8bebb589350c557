#!/bin/sh
# Packs one order. `nexusctl worker` runs this for each message: the body is standard input, the rest
# is in NEXUS_* variables, and the exit status says what becomes of the message.
read -r order
case $order in
*'"broken"'*)
    if [ "$1" != mended ]; then
        echo "nobody can read the address of this order" >&2
        exit 65 # poison: dead-lettered at once, with the line above as the reason
    fi
    ;;
*'"unpaid"'*)
    if [ "$NEXUS_ATTEMPT" = 1 ]; then
        echo "the payment is not there yet" >&2
        exit 75 # tried again after a wait
    fi
    ;;
esac
echo "packed $order" # done, and acked
