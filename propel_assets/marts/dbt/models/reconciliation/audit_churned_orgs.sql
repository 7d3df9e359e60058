{{ propel_auth.churn_reconciliation('org') }}
