//! The tables as diesel sees them; `migrations/` creates them. One description serves both backends.

diesel::table! {
    leadership (id) {
        id -> Integer,
        epoch -> BigInt,
        leader -> Nullable<Text>,
        since -> Nullable<Timestamp>,
    }
}

diesel::table! {
    batch (name) {
        name -> Text,
        created_at -> Timestamp,
        paused -> Bool,
        pause_reason -> Nullable<Text>,
    }
}

diesel::table! {
    batch_counter (batch, status) {
        batch -> Text,
        status -> Text,
        tasks -> BigInt,
    }
}

diesel::table! {
    task (id) {
        id -> BigInt,
        batch -> Text,
        name -> Nullable<Text>,
        status -> Text,
        uploading -> Bool,
        missing -> Integer,
        dispatch_id -> Nullable<Text>,
        dispatch_epoch -> Nullable<BigInt>,
        dispatched_at -> Nullable<Timestamp>,
        attempt_id -> Nullable<Text>,
        execution_id -> Nullable<BigInt>,
        command -> Text,
        shell -> Nullable<Text>,
        container -> Nullable<Text>,
        container_options -> Nullable<Text>,
        input -> Text,
        output -> Nullable<Text>,
        resource -> Text,
        retry -> Integer,
        retries_left -> Integer,
        download_timeout -> Nullable<BigInt>,
        run_timeout -> Nullable<BigInt>,
        use_cache -> Bool,
        priority -> Integer,
        weight -> Integer,
        idempotency_key -> Nullable<Text>,
        labels -> Text,
        uid -> Nullable<BigInt>,
        gid -> Nullable<BigInt>,
        revision -> BigInt,
        row_version -> BigInt,
        created_at -> Timestamp,
        modified_at -> Timestamp,
    }
}

diesel::table! {
    task_label (key, value, task_id) {
        key -> Text,
        value -> Text,
        task_id -> BigInt,
    }
}

diesel::table! {
    requirement (task_id, required_task_id) {
        task_id -> BigInt,
        required_task_id -> BigInt,
        met -> Bool,
    }
}

diesel::table! {
    execution (id) {
        id -> BigInt,
        attempt_id -> Text,
        task_id -> BigInt,
        batch -> Text,
        worker -> Text,
        incarnation -> Text,
        dispatch_id -> Text,
        epoch -> BigInt,
        revision -> BigInt,
        announced_sequence -> BigInt,
        state -> Text,
        command -> Nullable<Text>,
        shell -> Nullable<Text>,
        container -> Nullable<Text>,
        container_options -> Nullable<Text>,
        input -> Text,
        output -> Nullable<Text>,
        resource -> Text,
        queued_at -> Timestamp,
        accepted_at -> Timestamp,
        started_at -> Nullable<Timestamp>,
        ended_at -> Nullable<Timestamp>,
        exit_code -> Nullable<Integer>,
        signal -> Nullable<Integer>,
        failure_reason -> Nullable<Text>,
        failure_detail -> Nullable<Text>,
        user_cpu_ms -> Nullable<BigInt>,
        system_cpu_ms -> Nullable<BigInt>,
        peak_memory_bytes -> Nullable<BigInt>,
        memory_source -> Nullable<Text>,
        stdout_length -> Nullable<BigInt>,
        stdout_cut_from -> Nullable<BigInt>,
        stdout_cut_to -> Nullable<BigInt>,
        stderr_length -> Nullable<BigInt>,
        stderr_cut_from -> Nullable<BigInt>,
        stderr_cut_to -> Nullable<BigInt>,
        complete -> Bool,
        created_at -> Timestamp,
    }
}

diesel::table! {
    output_stream (attempt_id, stream) {
        attempt_id -> Text,
        stream -> Text,
        stored_bytes -> BigInt,
        end_offset -> BigInt,
    }
}

diesel::table! {
    output_chunk (attempt_id, stream, start_offset) {
        attempt_id -> Text,
        stream -> Text,
        start_offset -> BigInt,
        length -> Integer,
        encoding -> Text,
        data -> Binary,
    }
}

diesel::table! {
    worker (id) {
        id -> BigInt,
        name -> Text,
        hostname -> Text,
        batch -> Text,
        status -> Text,
        concurrency -> Integer,
        prefetch -> Integer,
        paused -> Bool,
        desired_version -> BigInt,
        incarnation -> Text,
        program_version -> Text,
        cores -> Integer,
        memory_bytes -> BigInt,
        permanent -> Bool,
        flavor -> Nullable<Text>,
        provider -> Nullable<Text>,
        region -> Nullable<Text>,
        last_contact_at -> Timestamp,
        created_at -> Timestamp,
        lost_after_seconds -> Nullable<BigInt>,
        lost_at -> Nullable<Timestamp>,
        departed -> Bool,
        boots -> BigInt,
        restart_requested_boots -> Nullable<BigInt>,
        pause_reason -> Nullable<Text>,
        fault_reason -> Nullable<Text>,
        fault_detail -> Nullable<Text>,
        fault_batch -> Nullable<Text>,
        fault_at -> Nullable<Timestamp>,
        faults_counted_after -> BigInt,
    }
}

diesel::table! {
    former_incarnation (worker, incarnation) {
        worker -> Text,
        incarnation -> Text,
        last_contact_at -> Timestamp,
    }
}

diesel::allow_tables_to_appear_in_same_query!(execution, task, task_label, worker);
