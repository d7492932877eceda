-- What reconciliation found, kept over time, and how many rows it judged. Instants are UTC without a zone.

CREATE TABLE IF NOT EXISTS RECONCILIATION_BREAK (
    BREAK_ID             VARCHAR(32)  NOT NULL,  -- the same disagreement has the same id, however often it is found
    FEED                 VARCHAR(64)  NOT NULL,
    SIDE                 VARCHAR(20)  NOT NULL,  -- source, data_team
    BUSINESS_DATE        DATE         NOT NULL,
    KIND                 VARCHAR(30)  NOT NULL,
    SEVERITY             VARCHAR(10)  NOT NULL,
    PORTFOLIO_NUMBER     VARCHAR(64),
    RECORD_KIND          VARCHAR(64)  NOT NULL,  -- kind of record, or metric
    SUBJECT              VARCHAR(1024) NOT NULL, -- transaction id, security, masked account, object key
    FIELD_NAME           VARCHAR(64),
    EXPORT_VALUE         VARCHAR(400),
    OTHER_VALUE          VARCHAR(400),
    DIFFERENCE           NUMBER(38,6),
    EXPLANATION          VARCHAR(60)  NOT NULL,
    EVIDENCE             VARCHAR(4000) NOT NULL,
    SOURCE_ROW           VARCHAR(200),
    LANDED_FILE          VARCHAR(1024),
    PAGE                 VARCHAR(1024),
    LINE                 VARCHAR(12),
    FIRST_SEEN           TIMESTAMP_NTZ NOT NULL,
    LAST_SEEN            TIMESTAMP_NTZ NOT NULL,
    RESOLVED_AT          TIMESTAMP_NTZ,          -- null: open
    FIRST_ATTEMPT        VARCHAR(100) NOT NULL,
    LAST_ATTEMPT         VARCHAR(100) NOT NULL
);

CREATE TABLE IF NOT EXISTS RECONCILIATION_RUN (
    FEED                 VARCHAR(64)  NOT NULL,
    SIDE                 VARCHAR(20)  NOT NULL,
    BUSINESS_DATE        DATE         NOT NULL,
    ATTEMPT              VARCHAR(100) NOT NULL,
    RAN_AT               TIMESTAMP_NTZ NOT NULL,
    METRIC               VARCHAR(60)  NOT NULL,
    VALUE                NUMBER(38,0) NOT NULL
);
