"""The spine of Scoreline: contracts, ledger, runner, sweeper, broker, client, API and command line."""
