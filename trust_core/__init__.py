"""What both programs need and neither owns: identifiers, modes, clock, errors and their edge.

`identifiers`, `modes`, `clock` and `errors` are pure and stand on the standard library alone;
`grpc_edge` and `logs` are the two edges (the wire and the log) that both programs share.
"""
