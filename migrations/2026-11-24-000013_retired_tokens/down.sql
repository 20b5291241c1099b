DROP INDEX push_tokens_retired;
