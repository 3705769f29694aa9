"""A module that starts a thread when it is imported, as some monitoring agents do."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
