-- Answers of recipients about delivered files: one row a file and message, and one for each record that it names.

CREATE TABLE IF NOT EXISTS ACKNOWLEDGEMENT (
    FEED                 VARCHAR(64)  NOT NULL,
    BUSINESS_DATE        DATE         NOT NULL,
    REVISION             NUMBER(6,0)  NOT NULL,
    MESSAGE_ID           VARCHAR(100) NOT NULL,
    FILE_STATE           VARCHAR(30)  NOT NULL,  -- loaded, partially processed, cancelled, failed
    PORTFOLIO_NUMBER     VARCHAR(64),
    TRANSACTION_ID       VARCHAR(100),           -- null: the portfolio as a whole, or the file
    RECORD_STATE         VARCHAR(20),            -- accepted, rejected; null: the row is about the file
    CODE                 VARCHAR(100),           -- the recipient's code
    ANSWER_SHA256        VARCHAR(64)  NOT NULL,  -- of the message in the inbox
    READ_AT              TIMESTAMP_NTZ NOT NULL  -- when the message was read from the inbox, UTC
);
