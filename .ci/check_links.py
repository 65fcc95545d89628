"""Check that every relative link in the project's Markdown files leads to a file, and every anchor to a heading."""

import re
import subprocess
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?P<file>[^)#:\s]*)(?:#(?P<anchor>[^)\s]+))?\)")


def anchors(file: Path) -> set[str]:
    """The anchors that GitHub makes of a file's headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """A line for each link of a page that leads nowhere."""
    found = []
    for link in LINK.finditer(page.read_text()):
        target = (page.parent / link["file"]) if link["file"] else page
        if not target.exists():
            found.append(f"{page}: {link['file']} does not exist")
        elif link["anchor"] and target.suffix == ".md" and link["anchor"] not in anchors(target):
            found.append(f"{page}: {target} has no heading #{link['anchor']}")
    return found


def main() -> int:
    """Check the pages that git knows; 1 when a link is broken."""
    listed = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout.split()  # noqa: S607
    problems = [problem for page in listed for problem in broken(Path(page))]
    print("\n".join(problems) or f"{len(listed)} Markdown files: all links lead somewhere")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
