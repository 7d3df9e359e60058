"""The sandbox's webhooks at the receiver: with all faults, the store has each event that was not lost, once."""

import sqlite3

from propel_assets.sandbox.running import Sandbox
from propel_assets_tests.webhooks.conftest import serving

FAULTS = (
    "webhook_lost,share=0.1",
    "webhook_duplicated=2,share=0.3",
    "webhook_delay_ms=200,share=0.2",
    "webhook_disorder=7,share=0.5",
    "webhook_burst=9,share=0.3",
    "webhook_forged,share=0.3",
    "webhook_replayed,share=0.3",
)


def test_a_live_day_with_every_fault_is_stored_without_lost_forged_and_replayed_events(tmp_path, stored) -> None:
    store_url = f"sqlite:///{tmp_path}/events.db"
    with serving(store_url, tmp_path) as receiver:
        url = f"{receiver.url}/webhooks/propelauth"
        with Sandbox(users=40, orgs=5, seed=3, faults=FAULTS, webhook_url=url) as sandbox:
            for _ in range(200):
                sandbox.live.step()
            assert sandbox.webhooks.wait_until_sent(60)
        deliveries = list(sandbox.webhooks.deliveries)
    statuses = {
        kind: {a.status for d in deliveries if d.kind == kind for a in d.attempts} for kind in ("forged", "replayed")
    }
    assert statuses == {"forged": {401}, "replayed": {401}}
    sent = {d.svix_id: d for d in deliveries if d.kind == "delivery" and not d.lost}
    assert sum(d.lost for d in deliveries) > 5
    assert {a.status for d in sent.values() for a in d.attempts} == {204}
    ids = [svix_id for svix_id, _ in stored(store_url)]
    assert sorted(ids) == sorted(sent)
    with sqlite3.connect(tmp_path / "events.db") as database:
        rows = database.execute("SELECT svix_id, event_type, received_at FROM propel_webhook_events").fetchall()
    database.close()
    for svix_id, event_type, received_at in rows:
        assert event_type == sent[svix_id].event.event_type
        assert received_at >= sent[svix_id].event.happened_at
