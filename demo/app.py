"""The app as a Hugging Face Space; `python demo/app.py` runs it as well."""

import os
import threading

from captum_spes.app import serve
from captum_spes.models import load_model

# a Space says by this name that it wants to listen for other machines
with serve(load_model("whisper-tiny.en"), host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")) as url:
    print(f"The page is at {url}", flush=True)
    threading.Event().wait()
