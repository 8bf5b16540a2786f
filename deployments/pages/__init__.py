"""What a person sees, and what tools read: the start page, the docs and the OpenAPI document, from each model's schema.

The pages load nothing from elsewhere: they work on a machine without a way out.
"""

from __future__ import annotations

from deployments.pages.describe import describe
from deployments.pages.docs import DOCS_PATH, docs
from deployments.pages.frame import HTML_HEADERS
from deployments.pages.home import home
from deployments.pages.openapi import openapi
from deployments.pages.shown import Shown

__all__ = ["DOCS_PATH", "HTML_HEADERS", "Shown", "describe", "docs", "home", "openapi"]
