DROP TABLE worker, output_chunk, output_stream, execution, requirement, task_label, task, batch_counter, batch, leadership;
