-- What a delivery has besides its body: a push request by REST leaves through the outbox as one by RabbitMQ leaves at once.
ALTER TABLE outbox
    ADD COLUMN message_type text,
    ADD COLUMN priority smallint CONSTRAINT outbox_priority_range CHECK (priority BETWEEN 0 AND 255);
