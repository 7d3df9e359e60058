"""Print docs/tutorial.md as one shell script: every command of the page as it is written, and every file it has.

    python3 .ci/tutorial.py AUTH_URL API_KEY

The two replace the placeholders of the page. `propel-assets dev` waits for Ctrl-C: other tests run it.
"""

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"(?:Write `(?P<file>[^`]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)


def main(auth_url: str, api_key: str) -> None:
    """Print the script."""
    print("set -eux")
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        text = block["text"].replace("https://auth.example.com", auth_url).replace("_KEY=...", f"_KEY={api_key}")
        if block["file"]:
            print(f"cat > {block['file']} <<'END_OF_FILE'\n{text}END_OF_FILE")
        elif block["language"] == "sh" and text != "propel-assets dev\n":
            print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
