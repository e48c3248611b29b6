"""Prints the binary interface of include/*.h: constants, the layout of structs, signatures.

python tools/abi.py > tests/abi.txt        # or: make abi
"""

import re
import subprocess
import tempfile
from pathlib import Path

INCLUDE = Path(__file__).parents[1] / "include"


def declarations(header: str) -> str:
    """A header without comments, preprocessor lines and line breaks."""
    text = re.sub(r"\\\n", " ", (INCLUDE / header).read_text(encoding="utf-8"))
    text = re.sub(r"/\*.*?\*/|//[^\n]*|^\s*#[^\n]*", " ", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\s+", " ", text)


def bodies(kind: str, text: str) -> dict[str, list[str]]:
    """What stands within the braces of each struct or enum: its statements or its constants."""
    separator = ";" if kind == "struct" else ","
    found = re.findall(rf"typedef {kind} (\w+) {{(.*?)}}", text)
    return {name: [part.strip() for part in body.split(separator) if part.strip()] for name, body in found}


def fields(statement: str) -> list[str]:
    """Names of the fields that one statement declares, such as `const void *h0, *c0`."""
    return [re.findall(r"\w+", declared.split("[")[0])[-1] for declared in statement.split(",")]


def measured(structs: dict[str, list[str]], enums: dict[str, list[str]]) -> str:
    """Values, sizes and offsets, as the C compiler has them."""
    lines = []
    for name, constants in enums.items():
        lines += [rf'printf("enum {name} {(word := c.split()[0])} = %d\n", (int){word});' for c in constants]
    for name, statements in structs.items():
        lines.append(rf'printf("struct {name}: %zu bytes\n", sizeof({name}));')
        for statement in statements:
            for field in fields(statement):
                size = f"sizeof((({name} *)0)->{field})"
                lines.append(rf'printf("    %3zu %2zu {field}: {statement}\n", offsetof({name}, {field}), {size});')
    program = '#include <stdio.h>\n#include "clstm.h"\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    with tempfile.TemporaryDirectory() as directory:
        source, binary = Path(directory, "abi.c"), Path(directory, "abi")
        source.write_text(program, encoding="utf-8")
        subprocess.run(["cc", f"-I{INCLUDE}", str(source), "-o", str(binary)], check=True)
        return subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout


def main() -> None:
    header, capi = declarations("clstm.h"), declarations("clstm_capi.h")
    version = re.findall(r"#define (CLSTM_ABI_\w+ \d+)", (INCLUDE / "clstm.h").read_text(encoding="utf-8"))
    print("\n".join(version))
    print("\n".join(re.findall(r"typedef \w+ \(\*\w+\)\(.*?\);", header)))
    print(measured(bodies("struct", header), bodies("enum", header)), end="")
    print(
        "\n".join(
            f"function {prototype};"
            for prototype in re.findall(r"(?:const char \*|int\w* )clstm_\w+\(.*?\)(?=;)", header)
        )
    )
    print("capsule, in this order:")
    print("\n".join(f"    {pointer};" for pointer in bodies("struct", capi)["clstm_capi"]))


if __name__ == "__main__":
    main()
