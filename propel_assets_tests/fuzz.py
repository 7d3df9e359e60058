"""`make fuzz`: atheris follows which code an answer reaches, and looks for one that ends in an error of no kind of ours.

The answers are those of the test it drives. An answer that fails is printed, and saved as crash-*; hypothesis shows it
shorter when the test is run next.
"""

import sys

import atheris

with atheris.instrument_imports(include=["propel_assets"]):
    from propel_assets_tests.source.test_any_answer import test_any_body_is_decoded_whole_or_refused as decoded

if __name__ == "__main__":
    atheris.Setup(sys.argv, decoded.hypothesis.fuzz_one_input)
    atheris.Fuzz()
