"""What the site (`mkdocs.yml`) has beside the pages of this folder: pages from other folders, notebooks, the reference.

Pages are written to be read where they lie, as files. Here their links are those of the site; what a link names that
the site does not hold, as a script, stays as its text.
"""

import ast
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "experiments.md": ROOT / "experiments" / "README.md",
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
    "changes.md": ROOT / "CHANGELOG.md",
}
"""Pages of the site that lie elsewhere."""
NOTEBOOKS = {f"notebooks/{path.stem}.md": path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PACKAGES = {
    "qwafer": "Start here",
    "qwafer.data": "Maps, tables, splits",
    "qwafer.features": "Features",
    "qwafer.backbones": "Backbones",
    "qwafer.networks": "Networks",
    "qwafer.circuits": "Circuits",
    "qwafer.engines": "Engines",
    "qwafer.heads": "Heads",
    "qwafer.objective": "Losses and batches",
    "qwafer.config": "Configuration",
    "qwafer.training": "Training",
    "qwafer.experiment": "Experiments",
    "qwafer.execution": "Execution",
    "qwafer.studies": "Studies",
    "qwafer.comparison": "Comparison",
    "qwafer.evaluation": "Evaluation",
    "qwafer.probes": "Probes",
    "qwafer.reports.figures": "Figures",
    "qwafer.sklearn": "scikit-learn",
    "qwafer.serving": "Serving",
}
"""What the reference shows, and its titles."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?!https?:)[^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Put the reference into the navigation."""
    reference = next(entry["Reference"] for entry in config["nav"] if "Reference" in entry)
    reference.append({"Python": [{title: page_of(package)} for package, title in PACKAGES.items()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here."""
    from mkdocs.structure.files import File

    made = {page: source.read_text(encoding="utf-8") for page, source in PAGES.items()}
    made |= {page: notebook_page(source) for page, source in NOTEBOOKS.items()}
    made |= {page_of(package): reference_page(package, title) for package, title in PACKAGES.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page into those of the site."""
    source = PAGES.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)
    return relinked(markdown, source.parent, page.file.src_uri)


def relinked(markdown: str, folder: Path, page: str) -> str:
    """Return the text of `page` with links that are relative to `folder` made those of the site."""
    known = {path.resolve(): name for name, path in PAGES.items()}
    up = "../" * (len(PurePosixPath(page).parts) - 1)

    def replaced(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (folder / target).resolve()
        inside = path.is_relative_to(ROOT / "docs") and path.suffix in (".md", ".png", ".ipynb") and path.exists()
        if path in known:
            return f"{image}[{text}]({up}{known[path]}{anchor})"
        if inside:
            return f"{image}[{text}]({up}{path.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if path.suffix == ".ipynb":
            return f"[{text}]({up}notebooks/{path.stem}.md{anchor})"
        return text

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    text = "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)
    return re.sub(r"\]\[(?=[A-Za-z]+:)", "]&#91;", text)  # what a program printed, and no reference


def page_of(package: str) -> str:
    """Return the page of a package in the reference."""
    return f"reference/{package}.md"


def public_names(package: str) -> list[str]:
    """Return the public names of a package: what its file imports as it is, or, in a single file, what it defines."""
    place = ROOT / package.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and place.is_dir():
            names += [alias.asname for alias in node.names if alias.asname]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and node.col_offset == 0:
            names.append(node.name)
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def reference_page(package: str, title: str) -> str:
    """Return the page of a package: every public name, from its docstring."""
    entries = [f"::: {package}.{name}" for name in public_names(package)]
    return "\n\n".join([f"# {title}: `{package}`", *entries, ""])


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown, with what `make docs` saw when it ran the notebook, if it did."""
    ran = ROOT / "build" / "notebooks" / path.name
    cells = json.loads((ran if ran.exists() else path).read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [shown for output in cell.get("outputs", ()) if (shown := _output(output))]
    return "\n\n".join([*parts, f"The notebook is `notebooks/{path.name}`."])


def _output(output: dict[str, Any]) -> str:
    """Return an output of a cell: its figure, its HTML, or its text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text else ""


def run_notebooks() -> None:
    """Run every notebook, as the site shows it, into build/notebooks."""
    import nbformat
    from nbclient import NotebookClient

    folder = ROOT / "build" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for path in NOTEBOOKS.values():
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    run_notebooks()
