"""`proto/` keeps the house rules, and the rules reject what they should."""

from pathlib import Path

import pytest

from tests.support.proto_standard import PROTO, compile_protos, violations

GOOD = """
syntax = "proto3";
package trustlayer.v1;
import "trustlayer/v1/options.proto";
// A service.
service SeededService {
  // Does it.
  //
  // Scope: SCOPE_ADMIN.
  // Errors: INVALID_FIELD,
  // BRIDGE_NOT_FOUND.
  // Idempotency: idempotent; a repeat changes nothing.
  rpc DoIt(DoItRequest) returns (DoItResponse) {
    option (scope) = SCOPE_ADMIN;
    option idempotency_level = IDEMPOTENT;
  }
}
// Asks.
message DoItRequest {
  // What it is about.
  oneof about {
    // A name.
    string name = 1;
  }
  // A kind.
  enum Kind {
    // None.
    KIND_UNSPECIFIED = 0;
  }
  // Its parts.
  map<string, string> parts = 2;
}
// Answers.
message DoItResponse {}
"""


def _violations_of(text: str, directory: Path) -> list[str]:
    target = directory / "trustlayer" / "v1" / "seeded.proto"
    target.parent.mkdir(parents=True)
    target.write_text(text)
    return violations(compile_protos(directory))


def test_every_rpc_tells_scope_errors_and_idempotency_and_everything_is_commented() -> None:
    files = compile_protos(PROTO)
    assert sum(len(service.method) for file in files.file for service in file.service) > 0
    assert violations(files) == []


def test_a_proto_that_keeps_the_rules_is_accepted(tmp_path: Path) -> None:
    assert _violations_of(GOOD, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  // Scope: SCOPE_ADMIN.\n", "", "no line `Scope:`"),
        ("  // Errors: INVALID_FIELD,\n  // BRIDGE_NOT_FOUND.\n", "", "no line `Errors:`"),
        ("  // Idempotency: idempotent; a repeat changes nothing.\n", "", "no line `Idempotency:`"),
        ("Scope: SCOPE_ADMIN.", "Scope: SCOPE_VALIDATE.", "but declares SCOPE_ADMIN"),
        ("    option (scope) = SCOPE_ADMIN;\n", "", "declares no scope"),
        ("  // BRIDGE_NOT_FOUND.", "  // BRIDGE_MISLAID.", "names the error BRIDGE_MISLAID"),
        ("  // Errors: INVALID_FIELD,\n  // BRIDGE_NOT_FOUND.", "  // Errors: some.", "without naming one"),
        ("Idempotency: idempotent;", "Idempotency: not idempotent;", "means `idempotent`"),
        ("    option idempotency_level = IDEMPOTENT;\n", "", "means `not idempotent`"),
        ("// A service.\n", "", "SeededService: no comment"),
        ("// Asks.\n", "", "DoItRequest: no comment"),
        ("    // A name.\n", "", "DoItRequest.name: no comment"),
        ("  // What it is about.\n", "", "DoItRequest.about: no comment"),
        ("  // A kind.\n", "", "DoItRequest.Kind: no comment"),
        ("    // None.\n", "", "DoItRequest.Kind.KIND_UNSPECIFIED: no comment"),
        ("  // Its parts.\n", "", "DoItRequest.parts: no comment"),
    ],
)
def test_a_proto_that_breaks_one_rule_is_rejected_for_it(old: str, new: str, expected: str, tmp_path: Path) -> None:
    assert GOOD.count(old) == 1
    found = _violations_of(GOOD.replace(old, new), tmp_path)
    assert any(expected in violation for violation in found), found


def test_an_rpc_without_any_comment_is_rejected(tmp_path: Path) -> None:
    bare = "\n".join(line for line in GOOD.splitlines() if not line.startswith("  //"))
    found = _violations_of(bare, tmp_path)
    assert "SeededService.DoIt: no comment" in found
    assert sum(violation.startswith("SeededService.DoIt: its comment has no line") for violation in found) == 3
