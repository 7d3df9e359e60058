{{ propel_auth.reengagement_reconciliation('org') }}
