DROP TABLE push_suspects;
DROP TABLE push_inbox;
