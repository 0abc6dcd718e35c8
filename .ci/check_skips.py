"""Lists skipped tests with their reasons; fails if one of them passed in no run.

Usage: check_skips.py RUN.xml [RUN.xml ...], JUnit files of pytest.
"""

import sys
from xml.etree import ElementTree


def main(paths: list[str]) -> int:
    """Returns 0 if every test that was skipped in one run passed in another, else 1."""
    passed, skipped = set(), {}
    for path in paths:
        for case in ElementTree.parse(path).iter("testcase"):
            # A module that is skipped as a whole has no class name, and its own name as the test's.
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            skip = case.find("skipped")
            if skip is not None:
                skipped[name] = skip.get("message")
            elif case.find("failure") is None and case.find("error") is None:
                passed.add(name)
    never = 0
    for name, reason in sorted(skipped.items()):
        elsewhere = name in passed or any(other.startswith((name + "::", name + ".")) for other in passed)
        never += not elsewhere
        sys.stdout.write(f"{'passed in another run' if elsewhere else 'NEVER RUN'}: {name}: {reason}\n")
    sys.stdout.write(f"{len(passed)} tests passed, {len(skipped)} skipped somewhere, {never} never run\n")
    return 1 if never else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
