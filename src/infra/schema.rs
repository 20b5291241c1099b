// @generated automatically by Diesel CLI.

diesel::table! {
    audit_log (id) {
        id -> Uuid,
        at -> Timestamptz,
        actor_kind -> Text,
        actor_id -> Nullable<Text>,
        subject_id -> Nullable<Uuid>,
        action -> Text,
        reason -> Nullable<Text>,
        ip -> Nullable<Text>,
        correlation_id -> Nullable<Text>,
        detail -> Jsonb,
    }
}

diesel::table! {
    credentials (user_id) {
        user_id -> Uuid,
        password_hash -> Text,
        changed_at -> Timestamptz,
    }
}

diesel::table! {
    idempotency_keys (caller, method, route, key) {
        caller -> Text,
        method -> Text,
        route -> Text,
        key -> Text,
        fingerprint -> Bytea,
        status -> Int2,
        body -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    key_sightings (fingerprint) {
        fingerprint -> Bytea,
        kind -> Text,
        name -> Text,
        first_seen_at -> Timestamptz,
        last_used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    one_time_tokens (id) {
        id -> Uuid,
        purpose -> Text,
        user_id -> Uuid,
        address -> Text,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    outbox (id) {
        id -> Uuid,
        lane -> Text,
        user_id -> Nullable<Uuid>,
        exchange -> Nullable<Text>,
        routing_key -> Nullable<Text>,
        message_id -> Nullable<Text>,
        correlation_id -> Nullable<Text>,
        headers -> Jsonb,
        payload -> Bytea,
        attempts -> Int4,
        created_at -> Timestamptz,
        next_attempt_at -> Timestamptz,
        done_at -> Nullable<Timestamptz>,
        failed_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
        one_time_token_id -> Nullable<Uuid>,
        message_type -> Nullable<Text>,
        priority -> Nullable<Int2>,
    }
}

diesel::table! {
    preferences (user_id, category, channel) {
        user_id -> Uuid,
        category -> Text,
        channel -> Text,
        enabled -> Bool,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    push_inbox (message_id, user_id) {
        message_id -> Text,
        user_id -> Uuid,
        fingerprint -> Bytea,
        source -> Text,
        outcome -> Text,
        reason -> Nullable<Text>,
        detail -> Nullable<Text>,
        attempts -> Int4,
        next_attempt_at -> Nullable<Timestamptz>,
        body -> Nullable<Bytea>,
        properties -> Jsonb,
        correlation_id -> Nullable<Text>,
        received_at -> Timestamptz,
        decided_at -> Timestamptz,
    }
}

diesel::table! {
    push_suspects (fingerprint) {
        fingerprint -> Bytea,
        runs -> Int4,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    push_tokens (id) {
        id -> Uuid,
        user_id -> Uuid,
        token -> Text,
        token_sha256 -> Bytea,
        platform -> Nullable<Text>,
        last_seen_at -> Timestamptz,
        retired_at -> Nullable<Timestamptz>,
        reason -> Nullable<Text>,
    }
}

diesel::table! {
    recovery_codes (user_id, code_hmac) {
        user_id -> Uuid,
        code_hmac -> Bytea,
        used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        user_id -> Uuid,
        epoch -> Int4,
        counter -> Int8,
        ip -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        created_at -> Timestamptz,
        rotated_at -> Nullable<Timestamptz>,
        last_used_at -> Timestamptz,
        expires_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
        end_reason -> Nullable<Text>,
        ip_bucket -> Nullable<Text>,
    }
}

diesel::table! {
    staff_origins (user_id, ip_bucket) {
        user_id -> Uuid,
        ip_bucket -> Text,
        last_seen_at -> Timestamptz,
    }
}

diesel::table! {
    staff_sessions (token_sha256) {
        token_sha256 -> Bytea,
        user_id -> Uuid,
        epoch -> Int4,
        ip -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        created_at -> Timestamptz,
        last_used_at -> Timestamptz,
        expires_at -> Timestamptz,
        second_factor_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    throttles (name, key_hmac) {
        name -> Text,
        key_hmac -> Bytea,
        window_start -> Timestamptz,
        count -> Int8,
    }
}

diesel::table! {
    totp (user_id) {
        user_id -> Uuid,
        secret_sealed -> Bytea,
        last_step -> Int8,
        enrolled_at -> Timestamptz,
    }
}

diesel::table! {
    users (id) {
        id -> Uuid,
        email -> Text,
        email_key -> Text,
        email_verified_at -> Nullable<Timestamptz>,
        name -> Text,
        locale -> Nullable<Text>,
        time_zone -> Nullable<Text>,
        is_active -> Bool,
        is_staff -> Bool,
        session_epoch -> Int4,
        version -> Int8,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        deactivated_at -> Nullable<Timestamptz>,
        erased_at -> Nullable<Timestamptz>,
        name_key -> Text,
        last_name_key -> Text,
    }
}

diesel::joinable!(credentials -> users (user_id));
diesel::joinable!(one_time_tokens -> users (user_id));
diesel::joinable!(preferences -> users (user_id));
diesel::joinable!(push_tokens -> users (user_id));
diesel::joinable!(recovery_codes -> users (user_id));
diesel::joinable!(sessions -> users (user_id));
diesel::joinable!(staff_origins -> users (user_id));
diesel::joinable!(staff_sessions -> users (user_id));
diesel::joinable!(totp -> users (user_id));

diesel::allow_tables_to_appear_in_same_query!(
    audit_log,
    credentials,
    idempotency_keys,
    key_sightings,
    one_time_tokens,
    outbox,
    preferences,
    push_inbox,
    push_suspects,
    push_tokens,
    recovery_codes,
    sessions,
    staff_origins,
    staff_sessions,
    throttles,
    totp,
    users,
);
