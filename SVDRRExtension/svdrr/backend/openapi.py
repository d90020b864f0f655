"""What API v1 says about itself at /openapi.json and /docs, where FastAPI cannot know it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from svdrr.backend.validation import job_schema

_BINARY = {"type": "string", "format": "binary"}

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error. Codes: unauthorized (401), forbidden (403), not_found (404), method_not_allowed "
        "(405), timeout (408), not_finished and pixels_unknown (409), too_large (413), invalid (400, 415, 422), "
        "queue_full (429, with Retry-After), internal (500), disk_full (507).",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `status` (data: JobStatus), `view` (id: its number + 1; data: index, label, and "
        "preview_png in base64) and `gone`. After the last status the stream ends.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
ZIP_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip file: views.json with `views`, a list of array (file name), label, pixel_spacing_mm "
        "(row, column), view (pose, detector, matrices, or null) and provenance; and each array as .npy.",
        "content": {"application/zip": {"schema": _BINARY}},
    }
}
JOB_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["job"],
                    "properties": {"job": {"$ref": "#/components/schemas/Job"}, "pixels": _BINARY},
                },
                "encoding": {"job": {"contentType": "application/json"}},
            }
        },
    }
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "For programs."},
                "message": {"type": "string", "description": "One sentence for people."},
            },
        }
    },
}


def describe(app: FastAPI) -> None:
    """Adds jobs, errors and the token to the application's OpenAPI document."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = made_by_fastapi()
        job = job_schema()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update({**job.pop("$defs"), "Job": job, "Error": _ERROR})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/v1/health"]["get"]["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
