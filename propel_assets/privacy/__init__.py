"""What is stored about people: the policy, the erasure list, and the redaction of text. Knows no pipeline."""
