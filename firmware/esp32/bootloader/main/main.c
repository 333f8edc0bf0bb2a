/* ESP-IDF builds a boot loader for a project, and a project has a program. This one is not used:
   the firmware is in ../src. */
void app_main(void) {}
