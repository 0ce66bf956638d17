"""How long calls may take, and the time that an invocation therefore reserves at its end. In seconds."""

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 10
CALL_TIMEOUT = CONNECT_TIMEOUT + READ_TIMEOUT
# Of the call that continues a sweep in a new invocation.
CONTINUATION_ATTEMPTS = 2

# Waits for the rate limiter and between the attempts, the report, name resolution, a busy machine.
_MARGIN = 38
# At the deadline a read and its write may begin. The continuation follows.
RESERVE = (2 + CONTINUATION_ATTEMPTS) * CALL_TIMEOUT + _MARGIN
