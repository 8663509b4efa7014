"""
What has to work before a release: build the sdist, from it the wheel, install that into a new environment, and run
`metis-home demo --preset smoke` there. `make release-check` runs it; nothing is left behind.

The new environment borrows the dependencies of the one that runs this script, by a path file, because PyTorch alone
would take minutes to install. The package itself comes from the wheel: an editable install is not visible there, since
Python does not follow path files that a path file leads to.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]


def run(*command, **options) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"{done.stdout}\nFailed with {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT)
        [wheel], [sdist] = (list((folder / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
        missing = files_of_the_package() - set(zipfile.ZipFile(wheel).namelist())
        if missing:
            sys.exit(f"The wheel lacks {sorted(missing)}.")
        print(f"Built {sdist.name} and {wheel.name}.")

        environment = folder / "environment"
        venv.create(environment, with_pip=False)
        python = environment / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        found = run(python, "-c", "import hf_metis_home; print(hf_metis_home.__file__)", cwd=folder).strip()
        if not Path(found).is_relative_to(environment):
            sys.exit(f"The package was imported from {found}, not from the wheel.")

        command = environment / "bin" / "metis-home"
        print(run(command, "--version", cwd=folder).strip(), "is installed in a new environment.")
        print(run(command, "demo", "--preset", "smoke", "--output_dir", "demo", cwd=folder, stdin=subprocess.DEVNULL))
    print("The release can be made; nothing was left behind. Next: docs/development/releasing.md")


def files_of_the_package() -> set[str]:
    source = ROOT / "src"
    files = (path for path in (source / "hf_metis_home").rglob("*") if path.is_file())
    return {path.relative_to(source).as_posix() for path in files if "__pycache__" not in path.parts}


if __name__ == "__main__":
    main()
