{{ propel_auth.churn_reconciliation('user') }}
