"""What the scripts that read Rust sources as text have in common."""
import re

TEST_FILE = re.compile(r"(^|/)(tests?|testing|conformance|[a-z_]+_tests)(\.rs$|/)")
_CODE = re.compile(r'r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\'\\])\'|//[^\n]*|/\*.*?\*/', re.S)


def is_test(path_below_src: str) -> bool:
    """Whether a file holds only tests: files and folders named tests, testing, conformance or *_tests."""
    return bool(TEST_FILE.search(path_below_src))


def _blank(match: re.Match) -> str:
    """Comments become blank; of literals only their line breaks remain, so that no brace inside of one counts."""
    text = match[0]
    if text.startswith(("//", "/*")):
        return "\n" * text.count("\n")
    return '""' + '""\n' * text.count("\n")


def production(source: str) -> list[str]:
    """The lines of code of a file: without comments, blank lines, and what is below `#[cfg(test)]`."""
    lines, skipped, depth = [], False, 0
    for line in _CODE.sub(_blank, source).split("\n"):
        if not line.strip():
            continue
        if line.strip() == "#[cfg(test)]":
            skipped, depth = True, 0
            continue
        if skipped:
            depth += line.count("{") - line.count("}")
            # An item ends with its brace, or with a semicolon outside of braces.
            if depth == 0 and line.rstrip().endswith(("}", ";")):
                skipped = False
            continue
        lines.append(line)
    return lines
