"""What identifies one person in the warehouse: plain, hashed by the privacy policy, or both."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from propel_assets.privacy.identifiers import like_patterns
from propel_assets.privacy.policy import Policy

DIGEST = re.compile("[0-9a-f]{64}")
EMAIL_COLUMNS = ("email", "invitee_email", "inviter_email")


@dataclass
class Person:
    """The identifiers of one person, as they are stored."""

    ids: set[str] = field(default_factory=set)
    emails: set[str] = field(default_factory=set)
    usernames: set[str] = field(default_factory=set)
    api_keys: set[str] = field(default_factory=set)

    @classmethod
    def from_arguments(cls, user_id: str, emails: Iterable[str], policy: Policy) -> "Person":
        """Return the person with this id and these addresses, and with their keyed hashes where there is a key."""
        person = cls({user_id}, {*emails})
        if policy.key:
            person.ids |= {policy.digest(user_id)}
            person.emails |= {policy.digest(email) for email in emails}
        return person

    def as_lists(self) -> dict[str, list[str]]:
        """Return the identifiers as JSON can have them."""
        return {kind.name: sorted(getattr(self, kind.name)) for kind in fields(self)}

    def add(self, identifiers: Mapping[str, Iterable[str]]) -> None:
        """Add identifiers, as `as_lists` returns them."""
        for kind in fields(self):
            getattr(self, kind.name).update(identifiers.get(kind.name, ()))

    def in_column(self, name: str) -> set[str]:
        """Return the identifiers that a column of this name can contain, in lower case."""
        columns = {
            "username": self.usernames,
            "api_key_id": self.api_keys,
            "looked_up": self.ids | self.emails | self.usernames,
            **dict.fromkeys(EMAIL_COLUMNS, self.emails),
        }
        return {value.lower() for value in columns.get(name, self.ids)}

    def in_text(self, *, with_usernames: bool) -> set[str]:
        """Return the identifiers that text is searched for, in lower case. Usernames are often ordinary words."""
        names = self.usernames if with_usernames else set()
        return {value.lower() for value in self.ids | self.emails | self.api_keys | names}

    def text_patterns(self, *, with_usernames: bool) -> list[str]:
        """Return patterns for LIKE, of which one matches each text that contains one of these identifiers."""
        return sorted({p for value in self.in_text(with_usernames=with_usernames) for p in like_patterns(value)})

    def hashes(self, policy: Policy) -> set[str]:
        """Return what the erasure list stores: the keyed hash of each identifier."""
        values = self.ids | self.emails | self.usernames | self.api_keys
        return {h for v in values for h in ([v] if DIGEST.fullmatch(v) else map(policy.digest, {v, v.lower()}))}
