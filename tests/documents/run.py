"""Runs what documents show, and holds them to what they say comes out.

A ```console block is a part of one shell session for each document: a line with "$ " is a command (one that ends with a
backslash goes on), what follows is its output, where "…" stands for anything within a line and a line "…" for any lines.
A ```python, ```typescript or ```javascript block is a program; a ```text block right behind is what it prints. Every command
and program must succeed. localhost:8000 is the service under test. Other blocks are only shown.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 90
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n?```text\n(.*?)^```$)?", re.M | re.S)
END = "\x1eend of the command\x1e"


def there(text):
    return text.replace("localhost:8000", os.environ["BASE_URL"].removeprefix("http://"))


def pattern(expected):
    lines = [r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in expected.splitlines()]
    return re.compile("".join(lines) + r"\Z")


def compare(where, expected, status, output):
    output = "".join(line.rstrip() + "\n" for line in output.splitlines())
    if status == 0 and pattern(there(expected)).match(output):
        return 0
    print(f"{where}\n--- expected\n{expected}--- came (exit status {status})\n{output}---", file=sys.stderr)
    return 1


class Shell:
    def __init__(self, folder):
        # A reader's shell runs under no make: one that is told it does says which directory it enters.
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
        )

    def run(self, command):
        # Its input is ours: what reads from there must not eat the next command.
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '%s%s\\n' '{END}' $?\n")
        self.process.stdin.flush()
        output = ""
        for line in self.process.stdout:
            output += line
            if END in line:
                output, status = output.rsplit(END, 1)
                return int(status), output
        raise SystemExit(f"the shell ended in\n{command}\n{output}")


def commands(block):
    """Pairs of a command and its output."""
    found = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append([line[2:], ""])
        elif found and not found[-1][1] and found[-1][0].endswith("\\\n"):
            found[-1][0] += line
        else:
            found[-1][1] += line
    return found


def program(language, text, folder):
    suffix = {"python": ".py", "typescript": ".mts", "javascript": ".mjs"}[language]
    file = pathlib.Path(folder) / f"program{suffix}"
    file.write_text(there(text))
    command = [sys.executable, file] if language == "python" else [os.environ["TSX"], file]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    return ran.returncode, ran.stdout


def main():
    failures = ran = 0
    for name in sys.argv[1:]:
        text = (ROOT / name).read_text()
        with tempfile.TemporaryDirectory() as folder:
            # The tour is walked in a checkout; the rest needs only the binary.
            shell = Shell(ROOT if name == "README.md" else folder)
            for block in BLOCK.finditer(text):
                language, body, printed = block.groups()
                where = f"{name}:{text.count(chr(10), 0, block.start()) + 1}"
                if language == "console":
                    for command, expected in commands(body):
                        ran += 1
                        failures += compare(f"{where} $ {command.strip()}", expected, *shell.run(there(command.rstrip("\n"))))
                elif language in ("python", "typescript", "javascript"):
                    ran += 1
                    failures += compare(f"{where} {language}", printed or "…\n", *program(language, body, folder))
            shell.process.stdin.close()
            shell.process.wait(SECONDS)
    print(f"{ran} commands and programs of {len(sys.argv) - 1} documents ran, {failures} failed")
    sys.exit(failures > 0)


main()
