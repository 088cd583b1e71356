/* Imports an export as a C program does: CONFIG_FILE EXPORT MEMBERS REPLICA. Prints what was imported, or the
 * code of the refusal. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drakkar.h"

static drakkar_slice_t slice(const char *text) {
    drakkar_slice_t slice = {(const uint8_t *)text, strlen(text)};
    return slice;
}

int main(int count, char **words) {
    static char config[1 << 16];
    FILE *file = count == 5 ? fopen(words[1], "r") : NULL;
    if (file == NULL) {
        return 99;
    }
    config[fread(config, 1, sizeof config - 1, file)] = 0;
    fclose(file);

    drakkar_import_t import = {0};
    import.config = slice(config);
    import.from = slice(words[2]);
    import.members = slice(words[3]);
    import.replica = (uint32_t)atoi(words[4]);
    drakkar_imported_t imported = {0};
    drakkar_error_t *error = NULL;
    drakkar_status_t status = drakkar_snapshot_import(&import, &imported, &error);
    if (status == DRAKKAR_STATUS_T_OK) {
        printf("epoch %u again %u\n", (unsigned)imported.epoch, imported.again);
    } else {
        printf("%s: %s\n", drakkar_error_code(error), drakkar_error_message(error));
    }
    drakkar_error_free(error);

    /* What must not be NULL is refused, and nothing is touched. */
    if (drakkar_snapshot_import(NULL, &imported, NULL) != DRAKKAR_STATUS_T_NULL_ARGUMENT) {
        return 98;
    }
    return (int)status;
}
