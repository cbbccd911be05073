#!/usr/bin/env python3
"""Holds every dependency against the `licenses`, `bans` and `sources` tables of deny.toml.

Stands in for `cargo deny check licenses bans sources` where that is not installed: it reads the same file, and says
which of its rules it cannot check.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
UNDERSTOOD = {
    "graph": {"all-features"},
    "licenses": {"allow", "exceptions", "private", "confidence-threshold"},
    "bans": {"multiple-versions", "wildcards", "deny"},
    "sources": {"unknown-registry", "unknown-git"},
}
CRATES = "registry+https://github.com/rust-lang/crates.io-index"


def permitted(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def alternatives():
        value = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = conjunction() or value
        return value

    def conjunction():
        value = atom()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = atom() and value
        return value

    def atom():
        token = tokens.pop(0)
        if token == "(":
            value = alternatives()
            tokens.pop(0)
            return value
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in allowed

    return alternatives()


def faults(rules, metadata):
    allowed = set(rules["licenses"]["allow"])
    exceptions = {each["crate"]: set(each["allow"]) for each in rules["licenses"].get("exceptions", [])}
    denied = {each["crate"] for each in rules["bans"].get("deny", [])}
    members = set(metadata["workspace_members"])
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["id"] not in members:
            if package["source"] != CRATES:
                yield f"{name}: comes from {package['source'] or package['manifest_path']}"
            if package["name"] in denied:
                yield f"{name}: is denied"
        if not package["license"]:
            yield f"{name}: names no licence"
        elif not permitted(package["license"], allowed | exceptions.get(package["name"], set())):
            yield f"{name}: {package['license']} is not allowed"
        for dependency in package["dependencies"]:
            if package["id"] in members and dependency["req"] == "*" and not dependency.get("path"):
                yield f"{name}: any version of {dependency['name']} would do"


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    for table, keys in rules.items():
        for key in keys:
            if key not in UNDERSTOOD.get(table, ()):
                sys.exit(f"deny.toml: {table}.{key} can only be checked by cargo-deny itself")
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    # Without the all-features graph a leaner build would be checked than the one that is shipped.
    if rules.get("graph", {}).get("all-features"):
        command.append("--all-features")
        metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    found = sorted(faults(rules, metadata))
    print("\n".join(found) or f"{len(metadata['packages'])} packages, all within deny.toml")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
