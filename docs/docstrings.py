"""What the docstrings of the source need to read well as Markdown: doctests become code blocks, roles become code."""

import re

import griffe


def as_markdown(text: str) -> str:
    """A docstring with its doctests fenced and its ``:role:`` marks taken off."""
    text = re.sub(r":\w+:`", "`", text)
    lines: list[str] = []
    indent, inside = "", False
    for line in [*text.splitlines(), ""]:
        if inside and not line.strip():
            lines.append(f"{indent}```")
            inside = False
        elif not inside and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            lines += ["", f"{indent}```pycon"]
            inside = True
        lines.append(line)
    return "\n".join(lines)


class DocstringMarkdown(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called once an object and its docstring are there."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
