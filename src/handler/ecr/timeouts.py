"""How long calls may take, and the time that an invocation therefore reserves at its end. In seconds."""

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 10
CALL_TIMEOUT = CONNECT_TIMEOUT + READ_TIMEOUT
# Of the call that continues a sweep in a new invocation.
CONTINUATION_ATTEMPTS = 2

# For the rate limiter, backoff, name resolution and the report.
_MARGIN = 38
# In the worst case, a read and its write start at the deadline, and then the continuation with its retries.
RESERVE = (2 + CONTINUATION_ATTEMPTS) * CALL_TIMEOUT + _MARGIN
