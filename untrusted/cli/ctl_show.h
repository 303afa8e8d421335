/* What the daemon returned, for people. Everything goes through shown_text; a member that is missing is shown as "-".
 */
#pragma once

#include <stdio.h>

#include <jansson.h>

/* Sentences are broken between words; a word that is longer, such as a path, stays whole. */
void ctl_show_line(const char *caption, const char *text, FILE *out);
void ctl_show_instance(const json_t *instance, FILE *out);
/* A table, as wide as its labels want; 92 columns with labels of 16. */
void ctl_show_list(const json_t *instances, FILE *out);
void ctl_show_status(const json_t *status, FILE *out);
/* One line. */
void ctl_show_event(const json_t *event, FILE *out);
