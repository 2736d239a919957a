"""Prints the routes of the app that vLLM serves, with every kind of task, as JSON: [[methods, path], ...].

python -m tests.integration.vllm_routes ARGUMENTS_OF_VLLM
"""

from __future__ import annotations

import json
from typing import get_args


def main() -> None:
    from starlette.routing import BaseRoute, Mount, WebSocketRoute
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.tasks import SupportedTask
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    tasks = tuple(name for kind in get_args(SupportedTask) for name in get_args(kind) or (kind,))
    app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args(), tasks)

    def described(route: BaseRoute) -> tuple[list[str], str]:
        methods = (
            ["WEBSOCKET"] if isinstance(route, WebSocketRoute) else sorted(getattr(route, "methods", None) or ["GET"])
        )
        return methods, getattr(route, "path", "/") + ("/x" if isinstance(route, Mount) else "")

    print("\n" + json.dumps([described(route) for route in app.routes]))


if __name__ == "__main__":
    main()
