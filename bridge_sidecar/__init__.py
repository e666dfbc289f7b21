"""The sidecar: one light process beside the app that answers "is this session valid?" on a Unix socket.

Read a hit in this order: `unix_server` -> `validator` -> `session_cache`. A miss goes on from the validator to
`upstream`. A revocation comes in through `revocation_watch`, is checked by `watch_protocol`, and ends in
`session_cache`. `bootstrap` is the only place that puts the parts together.

Everything shared (cache, lease, flights, activity) is touched by one event loop and no other thread, so nothing
here takes a lock; the thread of `metrics`, where they are on, only reads numbers. No pydantic, typer or rich: the
process has a memory budget of 45 MiB.
"""
