DROP TABLE staff_origins;
