"""A small chat window: python examples/window.py [BUNDLE]"""

import queue
import sys
import threading
import tkinter as tk
from tkinter.scrolledtext import ScrolledText

import edgert

POLL_MS = 30


class Window:
    """A page, a line to type in, a Stop button.

    Only the main thread may touch them. A thread for each answer reads its chunks into a queue, which the
    main thread empties between two events: it never waits.
    """

    def __init__(self, model: edgert.Model) -> None:
        self.chat = model.conversation(system="Be brief.")
        self.stream: edgert.Stream | None = None
        self.chunks: queue.SimpleQueue[edgert.Chunk | edgert.EdgertError] = queue.SimpleQueue()

        self.root = tk.Tk()
        self.root.title(f"edgert: {model.bundle.manifest.name}")
        self.page = ScrolledText(self.root, wrap="word", state="disabled")
        self.page.tag_configure("thinking", foreground="grey")
        self.page.pack(fill="both", expand=True)
        self.button = tk.Button(self.root, text="Stop", command=self.stop, state="disabled")
        self.button.pack(side="right")
        self.line = tk.Entry(self.root)
        self.line.bind("<Return>", self.ask)
        self.line.pack(side="left", fill="x", expand=True)
        self.line.focus()

    def ask(self, _: object) -> None:
        question = self.line.get()
        if self.stream is not None or not question.strip():
            return
        try:
            self.stream = self.chat.send(question)
        except edgert.EdgertError as error:
            self.show(f"({error})\n")
            return
        self.line.delete(0, "end")
        self.show(f"> {question}\n")
        self.button["state"] = "normal"
        threading.Thread(target=self.read, args=(self.stream,)).start()
        self.poll()

    def stop(self) -> None:
        if self.stream is not None:
            self.stream.stop()

    def read(self, stream: edgert.Stream) -> None:
        """In a thread of its own."""
        try:
            for chunk in stream:
                self.chunks.put(chunk)
        except edgert.EdgertError as error:
            self.chunks.put(error)

    def poll(self) -> None:
        """Show what has come, and look again soon, until the answer ends."""
        while not self.chunks.empty():
            chunk = self.chunks.get()
            if isinstance(chunk, edgert.EdgertError):
                self.end(f"({chunk})")
                return
            self.show(chunk.text, chunk.channel)
            if chunk.finish_reason:
                self.end("" if chunk.finish_reason == "stop" else f" ({chunk.finish_reason})")
                return
        self.root.after(POLL_MS, self.poll)

    def end(self, note: str) -> None:
        self.show(f"{note}\n\n")
        self.stream = None
        self.button["state"] = "disabled"

    def show(self, text: str, channel: str = "answer") -> None:
        self.page["state"] = "normal"
        self.page.insert("end", text, channel)
        self.page["state"] = "disabled"
        self.page.see("end")


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    with edgert.load(bundle) as model:  # once the window is closed, this ends what is still being answered
        Window(model).root.mainloop()


if __name__ == "__main__":
    main()
