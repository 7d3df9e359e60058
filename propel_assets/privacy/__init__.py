"""What is stored about people: the privacy policy, the erasure list, and the redaction of text. Knows no pipeline."""
