"""LangChain's standard integration tests of a chat model (`langchain-tests`), through ChatOpenAI at a running Spectra."""

import os

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

real = os.environ.get("SPECTRA_REAL") == "1"
# What a 135M model says has no sense; these ask for form alone.
FORM = ("invoke", "stream", "batch", "usage_metadata", "conversation", "stop_sequence", "message_with_name")


class TestSpectra(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {"model": "auto", "base_url": os.environ["SPECTRA_BASE_URL"], "api_key": "none", "temperature": 0, "max_tokens": 48, "max_retries": 0, "timeout": 180, "stream_usage": True}

    @property
    def supports_json_mode(self):
        return True

    @property
    def model_override_value(self):
        return "llama" if real else "small"

    @pytest.fixture(autouse=True)
    def of_form(self, request):
        if real and not any(word in request.node.name for word in FORM):
            pytest.skip("needs a model that understands; the scripted run has it")
