{{ propel_auth.reengagement_reconciliation('user') }}
