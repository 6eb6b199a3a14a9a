"""An answer as JSON, and a chat that calls functions: python examples/tools.py [BUNDLE] [QUESTION]"""

import sys
from typing import Annotated, Any, Literal

import edgert

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "people": {"type": "integer", "minimum": 1, "maximum": 40_000_000},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}


def weather(
    city: Literal["Oslo", "Paris", "Rome"], days: Annotated[int, {"minimum": 1, "maximum": 7}]
) -> dict[str, Any]:
    """What the weather will be.

    city: where
    days: for how many days
    """
    return {"city": city, "forecast": ["sun"] * days}


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    question = sys.argv[2] if len(sys.argv) > 2 else "What will the weather be in Rome in the next two days?"
    with edgert.load(bundle) as model:
        city = model.generate("Name a large city.", json_schema=CITY, max_tokens=200).json()
        print(f"{city['people']:,} people live in {city['city']}")
        chat = model.conversation(tools=[weather], max_tokens=200)
        try:
            stream = chat.send(question, tool_choice="required")
        except edgert.UsageError as error:
            print(error)  # a student that was not trained to call tools
            return
        for chunk in stream:
            print(chunk.text, end="", flush=True)
            for call in chunk.tool_calls:
                print(f"calls {call.name} with {call.arguments}")
        print()


if __name__ == "__main__":
    main()
